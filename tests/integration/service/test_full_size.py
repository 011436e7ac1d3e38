from pathlib import Path

import pytest

from tools.harness.local import CI


@pytest.mark.thorough
@pytest.mark.timeout(4000)
@pytest.mark.skipif(CI, reason="it takes three minutes and 11 GB of memory; by hand: python -m tools.try_full_size")
def test_a_model_as_large_as_svd_xt_generates_a_video_over_http(tmp_path: Path) -> None:
    # These import torch, which takes seconds.
    from tools.full_size import write
    from tools.try_full_size import shortage, try_out

    if reason := shortage(tmp_path):
        pytest.skip(reason)
    result = try_out(write(tmp_path / "hub"), tmp_path)
    defaults = result["model"]["defaults"]
    assert (defaults["width"], defaults["height"], defaults["num_frames"]) == (1024, 576, 25)
    assert result["frames"] == 2
    assert result["provenance"]["model"]["name"] == "stable-video-diffusion-img2vid-xt"
    assert result["peak_gb"] < 12
