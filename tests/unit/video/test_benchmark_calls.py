from pathlib import Path

from tools.benchmark import bare


def test_the_bare_calls_load_the_same_files_as_the_service(tiny: Path, tiny_half: Path) -> None:
    # A folder that was fetched for a GPU has only the files in half precision.
    for folder in (tiny, tiny_half):
        assert bare.load(str(folder)).unet.num_parameters() > 0
