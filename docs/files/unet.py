"""A small U-Net, for `corrector.kind=unet.py:UNet`."""

import torch


class UNet(torch.nn.Module):
    """Corrects on two scales: the grid's own, and one of half as many cells a side."""

    def __init__(self, inputs: int, outputs: int, width: int = 8) -> None:
        super().__init__()
        around = {"padding": 1, "padding_mode": "circular"}  # of a periodic grid
        self.enter = torch.nn.Conv2d(inputs, width, 3, **around)
        self.coarse = torch.nn.Conv2d(width, width, 3, **around)
        self.leave = torch.nn.Conv2d(2 * width, outputs, 3, **around)
        torch.nn.init.zeros_(self.leave.weight)  # start from the solver as it is
        torch.nn.init.zeros_(self.leave.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, inputs, y, x) -> (batch, outputs, y, x), both in standard deviations."""
        fine = torch.nn.functional.gelu(self.enter(x))
        half = torch.nn.functional.avg_pool2d(fine, 2)
        coarse = torch.nn.functional.gelu(self.coarse(half))
        again = torch.nn.functional.interpolate(coarse, scale_factor=2.0)
        return self.leave(torch.cat([fine, again], dim=1))
