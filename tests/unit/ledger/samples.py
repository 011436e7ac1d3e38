"""A job's parameters, holders and results, and short ways to submit and finish one."""

from typing import Any

from svd_service.jobs.job import Claim, Holder, Result
from svd_service.jobs.parameters import Parameters
from svd_service.jobs.submission import Submission
from svd_service.ledger import Ledger
from svd_service.parameters import Fit

PARAMETERS = Parameters(
    seed=1,
    width=256,
    height=144,
    num_frames=8,
    num_inference_steps=4,
    fps=7,
    motion_bucket_id=127,
    noise_aug_strength=0.02,
    min_guidance_scale=1.0,
    max_guidance_scale=3.0,
    decode_chunk_size=4,
    fit=Fit.CROP,
)
MODEL = {"name": "tiny", "revision": None, "trained": False}
HOLDER = Holder("host/0", "cpu", "instance", 1)
OTHER = Holder("host/1", "cpu", "instance", 2)
RESULT = Result("results/a/b.mp4", 1000, "00ff", 256, 144, 8, {"seed": 1})


def submit(ledger: Ledger, job_id: str = "a", **more: Any) -> str:
    return ledger.jobs.submit(
        Submission(job_id, parameters=PARAMETERS, model=MODEL, input=f"inputs/{job_id}.png", **more)
    )


def finish(ledger: Ledger, claim: Claim, result: Result = RESULT) -> None:
    ledger.attempts.finish(claim, result, device="cpu", seconds={"sampling": 2.0, "decoding": 1.0}, steps=4)
