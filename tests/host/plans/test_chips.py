import pytest

from rlvr_jax.host.plans import chips


@pytest.mark.parametrize(
    "text, count",
    [
        *(("v5e:1x1", 1), ("v5e:4x4", 16), ("V5P:2x2x4", 16), ("h100:8", 8)),
        *(("b200:4", 4), ("h100:2x8", 16)),
    ],
)
def test_topologies(text, count):
    topology = chips.parse_topology(text)
    assert topology.devices == count and topology.name == text.lower()
    assert topology.chip is chips.CHIPS[text.lower().partition(":")[0]]


@pytest.mark.parametrize(
    "text, message",
    [
        ("v9z:2x2", "'v9z' is no chip with known data .v5e"),
        ("v5e", "gives no shape of a slice"),
        ("v5e:8", "two or three sizes"),
        ("h100:2x9", "a node has at most 8 GPUs"),
        ("h100:2x2x2", "a node has at most 8 GPUs"),
        ("v5e:04x4", "gives no shape"),
        ("v5e:0x4", "gives no shape"),
        ("v5e:4x4x4x4", "gives no shape"),
        ("", "is no chip"),
        ("v5e:9999x9999", "nobody rents so many"),
    ],
)
def test_a_topology_that_is_none_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        chips.parse_topology(text)


def test_all_chips_have_whole_data():
    for name, chip in chips.CHIPS.items():
        assert chip.name == name and chip.platform in ("tpu", "gpu")
        assert chip.flops > chip.bandwidth > chip.link > chip.network
        assert chip.platform == "tpu" or chip.hbm / chips.GPU_SHARE in (80e9, 141e9, 180e9)
        assert (chip.network > 0) == (chip.together > 0) == (chip.platform == "gpu")
        assert 1 < chip.price < 20 and 1e10 < chip.hbm < 2e11


def test_fast_links_connect_the_gpus_of_a_node():
    found = [chips.parse_topology(text).together for text in ("h100:16", "h100:4x4", "v5e:4x4")]
    assert found == [8, 4, 0]


def test_prices_of_a_file(tmp_path):
    file = tmp_path / "prices.yaml"
    file.write_text("{v5e: 0.5, h100: 3}")
    assert chips.load_prices(file) == {"v5e": 0.5, "h100": 3.0}


@pytest.mark.parametrize(
    "text, message",
    [
        ("{v5x: 1}", "'v5x' is no chip"),
        ("{v5e: much}", "price of v5e is 'much'"),
        ("{v5e: -1}", "price of v5e is -1"),
        ("{v5e: true}", "price of v5e is True"),
        ("{v5e: .nan}", "price of v5e is nan"),
        ("[1]", "must hold dollars"),
        ("{v5e: [", "cannot read"),
        ("{v5e: {v5e: 1}}", "price of v5e is {'v5e': 1}"),
        ("[" * 5000, "cannot read"),
        ("{v5e: 1" + "0" * 400 + "}", "cannot read"),
    ],
)
def test_bad_prices_are_refused(tmp_path, text, message):
    file = tmp_path / "prices.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        chips.load_prices(file)


def test_prices_that_are_not_there(tmp_path):
    with pytest.raises(ValueError, match="cannot read the prices"):
        chips.load_prices(tmp_path / "none.yaml")
