"""What coordinates alone cost: perfect heatmaps by our codec, UDP's, the RAF authors'; and the command."""

from __future__ import annotations

import json

import numpy as np

from raf_ray.config import load_config
from raf_ray.data.sources.synthetic import synthetic_people
from raf_ray.evaluation.oracle import ceiling
from raf_ray.oracle import main
from raf_ray.request.parts import oracle_of
from raf_ray.resolution import Size

PEOPLE = synthetic_people(3, "test", np.arange(60), 160.0)
SIZE = Size(64, 48)


def ceilings(*words):
    config = load_config(overrides=["evaluation.flip_test=true", *words])
    return ceiling(oracle_of(config), PEOPLE, [SIZE, Size(96, 72), Size(128, 96)], "pckh_0.5")


def test_an_oracle_is_perfect_by_our_codec_and_udps_and_loses_small_sizes_by_the_authors():
    assert set(ceilings().values()) == set(ceilings("data.codec=udp").values()) == {1.0}
    lost = ceilings("data.codec=authors", "data.crop=stretch")
    assert 0.4 < lost["64x48"] < 0.75 < lost["96x72"] < lost["128x96"] and lost["128x96"] > 0.98


def test_the_command_prints_its_table_as_json(capsys):
    main(["data.codec=authors", "data.test_people=20", "evaluation.resolutions=[64x48]", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["codec"] == "authors" and told["people"] == 20 and told["by_resolution"]["64x48"] < 1


def test_the_command_takes_synthetic_people_where_a_preset_names_data_without_a_folder(capsys):
    main(["--preset", "authors_mpii", "data.test_people=20", "evaluation.resolutions=[128x96]"])
    told = capsys.readouterr().out
    assert "PCKh@0.5 of perfect heatmaps on 20 test people" in told and "stretch, authors" in told
