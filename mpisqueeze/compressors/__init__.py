"""The compression operators C(·): one file each. `base.Compressor` is the contract."""
