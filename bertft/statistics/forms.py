"""The kernels of RSA: how each is computed from the rows."""

from __future__ import annotations

from dataclasses import dataclass

from bertft.kernels.types import Form, LinkName, RowMap


@dataclass(frozen=True)
class KernelForm:
    """How a kernel is computed: map the rows, take the form of two mapped rows, and apply the link to its value."""

    row_map: RowMap
    form: Form
    link: LinkName = "identity"


FORMS: dict[str, KernelForm] = {
    "cosine": KernelForm("unit", "dot"),
    "correlation": KernelForm("centred_unit", "dot"),
    "dot": KernelForm("raw", "dot"),
    "sqeuclidean": KernelForm("raw", "distance"),
    "euclidean": KernelForm("raw", "distance", "euclidean"),
    "rbf": KernelForm("raw", "distance", "rbf"),
}
"""Every kernel of `bertft.rsa`."""

BILINEAR: dict[str, tuple[RowMap, Form]] = {
    name: (kernel.row_map, kernel.form) for name, kernel in FORMS.items() if kernel.link == "identity"
}
"""The kernels whose values are bilinear in the mapped rows, so that second moments give the exact RSA."""
