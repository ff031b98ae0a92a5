"""The register tile of `pyx/simd.h`: its rate beside the CPU's limit, measured in the same run."""

from slidedot import _dispatch


class Tile:
    params = (("tallest", "middle", "single row"), ("float32", "float64"))
    param_names = ("tile", "dtype")

    def setup(self, tile, dtype):
        self.probe = _dispatch.kernels.tile
        shapes = self.probe.shapes()
        rows = {"tallest": len(shapes), "middle": (len(shapes) + 1) // 2, "single row": 1}[tile]
        self.shape = shapes[rows - 1]
        self.double_precision = dtype == "float64"

    def track_rate(self, tile, dtype):
        return self.probe.rate(*self.shape, 0.2, self.double_precision)

    track_rate.unit = "GFLOP/s"

    def track_share_of_peak(self, tile, dtype):
        """The best of alternating measurements: other work on the machine slows both."""
        rounds = range(5)
        peak = max(self.probe.peak(0.1, self.double_precision) for _ in rounds)
        return (
            100
            * max(self.probe.rate(*self.shape, 0.1, self.double_precision) for _ in rounds)
            / peak
        )

    track_share_of_peak.unit = "% of the FMA peak"
