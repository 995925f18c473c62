import pytest

from s3dlio.datasets.legacy import merge, translate
from s3dlio.engine.errors import ConfigurationError


def test_arguments_that_mean_the_same_are_kept():
    given = {"batch_size": 8, "drop_last": True, "shuffle": True, "seed": 3}
    assert translate(given) == given


def test_arguments_that_have_another_form_are_translated():
    assert translate({"shard_rank": 1, "shard_world_size": 4}) == {"rank": 1, "world_size": 4}
    assert translate({"prefetch": 0}) == {"prefetch": 1}
    assert translate({"prefetch": 8}) == {"prefetch": 8}
    assert translate({"decode": "raw"}) == translate({"decode": "none"}) == {}
    assert translate({"enable_sharding": True}) == {}
    assert translate({"enable_sharding": False}) == {"rank": 0, "world_size": 1}


def test_views_are_writable_so_either_value_is_right():
    assert translate({"writable": False, "suppress_nonwritable_warning": True}) == {}
    with pytest.raises(ConfigurationError, match="writable is True or False"):
        translate({"writable": "yes"})


@pytest.mark.parametrize(
    ("name", "replacement"),
    [
        ("num_workers", "procs="),
        ("auto_tune", "jobs="),
        ("reader_mode", "split_above_bytes"),
        ("part_size", "part_bytes"),
        ("max_inflight_parts", "jobs="),
        ("worker_id", "DataLoader"),
        ("num_workers_pytorch", "DataLoader"),
        ("format", "decode="),
        ("spec", "pattern="),
        ("skip_head", "HEAD"),
    ],
)
def test_an_argument_that_does_nothing_here_names_what_does(name, replacement):
    with pytest.raises(ConfigurationError, match=f"{name} is not an argument of this data set; instead: .*{replacement}"):
        translate({name: 1})


def test_an_unknown_argument_is_refused():
    with pytest.raises(ConfigurationError, match="'bach_size' is not an argument"):
        translate({"bach_size": 1})


def test_an_argument_may_be_said_twice_but_not_in_two_ways():
    assert merge({"seed": 1}, {"seed": 1, "shuffle": True}, "loader_opts") == {"seed": 1, "shuffle": True}
    with pytest.raises(ConfigurationError, match="seed is 1, and 2 in loader_opts"):
        merge({"seed": 1}, {"seed": 2}, "loader_opts")
