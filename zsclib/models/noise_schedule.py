"""How much noise a timestep stands for, and what a network's output says of it: ε, v and flow prediction alike."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "v", "flow_prediction": "flow"}


class NoiseSchedule:
    """z_t = a z + s ε at every timestep, as a model's scheduler says.

    Attributes:
        prediction: "epsilon", "v" or "flow".
        T: number of timesteps; t counts them from 0 (least noise) to T - 1.
        alphas_cumprod: ᾱ, float32 (T,), on the CPU; None for flow models.
        signal, noise: a and s of each timestep, float32 (T,).
    """

    def __init__(self, scheduler: Any, device: torch.device) -> None:
        """Read a scheduler of diffusers; raise ValueError on a kind of prediction that is not supported."""
        config, alphas_cumprod = scheduler.config, getattr(scheduler, "alphas_cumprod", None)
        kind = config.get("prediction_type", "flow_prediction" if alphas_cumprod is None else "epsilon")
        if kind not in PREDICTIONS or (alphas_cumprod is None and kind != "flow_prediction"):
            raise ValueError(
                f"{type(scheduler).__name__} says prediction_type={kind!r}; supported are "
                f"{', '.join(PREDICTIONS)} (flow_prediction, or none, for flow-matching schedulers)"
            )
        self.prediction, self.T = PREDICTIONS[kind], int(config.num_train_timesteps)
        if self.prediction == "flow":
            # z_t = (1 - σ) z + σ ε, and the network reads σ T. The schedule's `shift` moves the steps of a sampler; it
            # changes nothing in this relation.
            self.alphas_cumprod, sigma = None, torch.arange(1, self.T + 1, dtype=torch.float64) / self.T
            signal, noise, network_input = 1 - sigma, sigma, (sigma * self.T).float()
        else:
            # float32 at least: rounded to float16, ᾱ makes s wrong by 7 % at t = 0
            self.alphas_cumprod = alphas_cumprod.float().cpu()
            alpha_bar = self.alphas_cumprod.double()
            signal, noise, network_input = alpha_bar.sqrt(), (1 - alpha_bar).sqrt(), torch.arange(self.T)
        self.signal, self.noise = signal.float().to(device), noise.float().to(device)
        self._network_input = network_input.to(device)

    def signal_and_noise(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return a, s of timesteps int64 (n,), float32 (n, 1, 1, 1)."""
        return self.signal[t].view(-1, 1, 1, 1), self.noise[t].view(-1, 1, 1, 1)

    def network_input(self, t: Tensor) -> Tensor:
        """Return what the network reads for timesteps int64 (n,): the timestep itself, or σ T of a flow."""
        return self._network_input[t]

    def noise_from(self, output: Tensor, z_t: Tensor, t: Tensor) -> Tensor:
        """Return ε̂ from a network's output (n, c, h, w), whatever it predicts.

        v = a ε - s z (Salimans & Ho 2022) gives ε = a v + s z_t; the flow's velocity v = ε - z gives ε = z_t + a v.
        """
        if self.prediction == "epsilon":
            return output
        a, s = self.signal_and_noise(t)
        return a * output + s * z_t if self.prediction == "v" else z_t + a * output

    def target(self, z: Tensor, ε: Tensor, t: Tensor) -> Tensor:
        """Return what a perfect network would output for z_t = a z + s ε: ε itself, v = a ε - s z, or v = ε - z.

        Args:
            z, ε: latents and their noise, (n, c, h, w). t: timesteps, int64 (n,), on the same device.
        """
        if self.prediction == "epsilon":
            return ε
        a, s = self.signal_and_noise(t)
        return a * ε - s * z if self.prediction == "v" else ε - z
