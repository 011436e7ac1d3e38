from pathlib import Path

from tools.benchmark import bare


def test_the_bare_calls_take_the_files_that_the_service_takes(tiny: Path, tiny_half: Path) -> None:
    # A folder that was fetched for a GPU has those in half precision alone.
    for folder in (tiny, tiny_half):
        assert bare.load(str(folder)).unet.num_parameters() > 0
