# The project with Ray, for KubeRay or any other container engine:
#
#   docker build -t raf-ray .                                            with CUDA, for GPUs and CPUs alike
#   docker build -t raf-ray:cpu --build-arg DEVICE=cpu --build-arg TORCH_INDEX=URL .
#                                                                        a third of the size: URL of PyTorch's CPU builds
FROM python:3.12-slim

ARG DEVICE=gpu
ARG TORCH_INDEX=""

# OpenCV's libraries, of the image's own Debian; ps and wget for the probes of KubeRay.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgl1 libglib2.0-0 procps wget \
    && rm -rf /var/lib/apt/lists/*

RUN useradd --create-home --uid 1000 ray
WORKDIR /home/ray/raf-ray
RUN chown ray:ray .
USER 1000
ENV PATH=/home/ray/raf-ray/.venv/bin:$PATH PYTHONUNBUFFERED=1
# Read by NVIDIA's container runtime where there is one.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility

COPY --chown=ray:ray pyproject.toml constraints.txt README.md LICENSE ./
COPY --chown=ray:ray raf_ray raf_ray
RUN case "$DEVICE:$TORCH_INDEX" in \
        gpu:) ;; \
        cpu:?*) ;; \
        *) echo "DEVICE=cpu needs TORCH_INDEX=URL of PyTorch's CPU builds, and DEVICE=gpu takes none" >&2; exit 2 ;; \
    esac \
    && python -m venv .venv \
    && { [ "$DEVICE" = gpu ] || pip install --no-cache-dir --index-url "$TORCH_INDEX" -c constraints.txt torch torchvision; } \
    && pip install --no-cache-dir -c constraints.txt -e . \
    && python -c "import cv2, torch, torchvision, ray, raf_ray"

CMD ["python", "-m", "raf_ray.run"]
