"""What a model scores on people at any sizes."""
