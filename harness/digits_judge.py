"""Who judges generated digits, and against what: names and digests (no torch)."""

from harness.comparability import ExtractorIdentity, ReferenceIdentity

WEIGHTS_SHA256 = "b7771dfc267f66c32ec8baeb8f69c21d7994b14dbb7cf1cf3c7645422fc7788c"

EXTRACTOR = ExtractorIdentity(name="digits", version="1", weights_sha256=WEIGHTS_SHA256)

# All 1,797 digits, as harness.data.digits gives them.
REFERENCE = ReferenceIdentity(
    name="digits",
    sha256="389df2818fb18d3964c4d11c39d549387095bfe0fae44ac4664675caf0de2201",
    split="all",
    num_images=1797,
    crop="none",
)
