"""Whether an installation signs, in words for `/health`, the log and the provenance of a video."""

from svd_service.marking.chain import Chain

#: Switched off by `SVD_C2PA`, or the extra `c2pa` is missing.
OFF = "off"
NOT_INSTALLED = "not installed"


def signed_by(chain: Chain) -> str:
    """The state of an installation that signs with `chain`."""
    return "signed, signer unknown" if chain.is_own else f"signed by {chain.common_name}"
