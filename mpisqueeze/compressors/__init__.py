"""The compression operators C(·): one file each, found by their `name`. `base.Compressor` is the contract."""
