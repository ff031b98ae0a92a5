"""Where the built extensions land: one module per kernel family and CPU level, and the probe."""
