"""Labelled image sets of the Hugging Face Hub, the only ones that are fetched."""

from __future__ import annotations

import os

from zsclib.images.class_folders import Listing
from zsclib.images.parquet import from_table


def from_hub(ident: str, split: str, allow_network: bool) -> Listing:
    """List a labelled set of the Hub; without a split "test", its "validation" is what is tested on.

    Args:
        ident: "OWNER/NAME" or "OWNER/NAME/CONFIG", with "@REVISION" behind it where that matters.
        split: as the set spells it. allow_network: must be True, for nothing else asks the network.

    Raises:
        ValueError: no leave to use the network, or the set cannot be opened.
    """
    if not allow_network:
        raise ValueError(
            f"load: 'hub:{ident}' needs the network; say allow_network=True, or download the set and use parquet:PATH"
        )
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise ValueError(f"load: 'hub:{ident}' needs the network; unset HF_HUB_OFFLINE, which forbids it")
    import datasets

    ident, _, revision = ident.partition("@")
    owner, _, rest = ident.partition("/")
    name, _, config = rest.partition("/")
    place = {"path": f"{owner}/{name}" if name else owner, "revision": revision or None}
    if config:
        place["name"] = config
    try:
        if split == "test" and "test" not in (known := datasets.get_dataset_split_names(**place)):
            split = "validation" if "validation" in known else split
        return from_table(datasets.load_dataset(**place, split=split), f"hub:{ident}")
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(f"load: 'hub:{ident}', split {split!r}, could not be opened: {error}") from error
