"""The base class of every sequence model: its two Pyro programs, generation, and custom guides."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from zpyro.errors import UserError
from zpyro.likelihoods import Likelihood
from zpyro.models import hub, parameter_store, saving
from zpyro.models.bound_model import BoundModel, bind
from zpyro.models.generation import run_forward, sample_frames
from zpyro.models.guides import latents_of
from zpyro.models.programs import PROGRAMS, Program
from zpyro.models.steps import StepwiseModel


class SequenceModel(StepwiseModel):
    """A latent variable at every time step, as a Pyro ``model`` and ``guide``.

    Both are called with

    - ``x``: frames (B, T, D) or tokens (B, T); with None the model generates,
    - ``lengths``: (B,), each at most T, by default T; with ``x=None`` the lengths to generate
      (an int for one length),
    - ``start``: x_0, (B, D) or (B,), by default zeros or the likelihood's start token,
    - ``observed``: (B, T), or (B, T, D), False where x is missing, for a model with ``missing``,
    - ``covariates``: u_1..u_T, (B, T, C), for a model with ``covariate_size`` C,

    and hold the generative process and the posterior only, within the plate ``sequences``. The
    sites are ``z`` and ``x`` in the granularity "sequence", ``z_1``.. and ``x_1``.. in "step".
    The methods that a subclass supplies are those of :class:`~zpyro.models.steps.StepwiseModel`.

    Args:
        likelihood: density of one frame, see :mod:`zpyro.likelihoods`.
        hidden_size: H.
        latent_size: Z.
        granularity: "sequence" (one site for all steps, fast) or "step" (a site per step).
        missing: whether frames may have missing values.
        covariate_size: C, numbers known beforehand for every step.

    Attributes:
        custom_guide: a guide to train and evaluate with instead of :meth:`guide`, or None.

    Raises:
        ValueError: for an unknown granularity.

    Example::

        model = zpyro.ZForcing(zpyro.likelihoods.Gaussian(3), hidden_size=16, latent_size=4)
        x = torch.randn(8, 20, 3)
        trace = pyro.poutine.trace(model.guide).get_trace(x)
        z = trace.nodes["z"]["value"]  # (8, 20, 4)
    """

    def __init__(
        self,
        likelihood: Likelihood,
        hidden_size: int,
        latent_size: int,
        granularity: str = "sequence",
        *,
        missing: bool = False,
        covariate_size: int = 0,
    ) -> None:
        super().__init__(
            likelihood, hidden_size, latent_size, missing=missing, covariate_size=covariate_size
        )
        check_granularity(granularity)
        self.granularity = granularity
        self.custom_guide: Program | None = None

    def model(
        self,
        x: Tensor | None = None,
        lengths: Tensor | int | None = None,
        start: Tensor | None = None,
        observed: Tensor | None = None,
        covariates: Tensor | None = None,
    ) -> Tensor:
        """The generative process; returns the frames, (..., B, T, D) or (..., B, T).

        Raises:
            ValueError: if shapes do not fit each other or the likelihood.
        """
        return self.program(self.granularity)[0](x, lengths, start, observed, covariates)

    def guide(
        self,
        x: Tensor | None = None,
        lengths: Tensor | int | None = None,
        start: Tensor | None = None,
        observed: Tensor | None = None,
        covariates: Tensor | None = None,
    ) -> Tensor:
        """The posterior; returns the latents, (..., B, T, Z). Arguments as in :meth:`model`.

        Raises:
            ValueError: if shapes do not fit each other or the likelihood, or x is None.
        """
        return self.program(self.granularity)[1](x, lengths, start, observed, covariates)

    @property
    def active_guide(self) -> Program:
        """The guide to train and evaluate with: the custom one where one was attached.

        :meth:`guide` and :meth:`program` stay the built-in ones; a custom guide may use them.
        """
        if self.custom_guide is None:
            return self.guide
        # The guide runs before the model, which would load values too late for its own.
        parameter_store.load(self, self.store_name)
        return self.custom_guide

    def program(self, granularity: str) -> tuple[Program, Program]:
        """The (model, guide) pair of a granularity, whatever the model's own is."""
        check_granularity(granularity)
        model, guide = PROGRAMS[granularity]
        return partial(model, self), partial(guide, self)

    def bind(
        self,
        x: Tensor | None,
        lengths: Tensor | int | None = None,
        start: Tensor | None = None,
        observed: Tensor | None = None,
        covariates: Tensor | None = None,
    ) -> BoundModel:
        """This model bound to one batch; arguments as in :meth:`model`.

        Raises:
            ValueError: if shapes do not fit each other or the likelihood.
        """
        return bind(self, x, lengths, start, observed, covariates)

    @torch.no_grad()
    def generate(
        self,
        steps: int,
        *,
        num_sequences: int = 1,
        start: Tensor | None = None,
        prefix: Tensor | None = None,
        temperature: float = 1.0,
        observed: Tensor | None = None,
        covariates: Tensor | None = None,
        output_noise: float = 1.0,
    ) -> Tensor:
        """Sample frames from the prior, or frames that continue a prefix.

        Args:
            steps: number of frames to sample.
            num_sequences: number of sequences where neither start nor prefix is given.
            start: x_0, (N, D) or (N,).
            prefix: frames x_1..x_P to continue, (N, P, D) or (N, P); its latents are sampled from
                the posterior given the prefix.
            temperature: factor on the standard deviations (logits are divided by it).
            observed: (N, P), or (N, P, D), False where the prefix is missing.
            covariates: of the prefix and the new frames, (N, P + steps, C), for a model with
                covariates.
            output_noise: factor on the deviation of the returned frames from their mean given the
                states, below 1 for less hiss in sound. The model is fed whole samples, so that
                latents and states are the same for every factor. For a continuous likelihood.

        Returns:
            The new frames, (N, steps, D) or (N, steps).

        Raises:
            ValueError: if shapes do not fit each other or the model.
            UserError: for an ``output_noise`` and a likelihood of bits or tokens.
        """
        if output_noise != 1.0 and self.likelihood.support.is_discrete:
            raise UserError(
                f"output_noise is for numbers, and the likelihood {self.likelihood.name} has none; "
                "use a temperature"
            )
        given = 0 if prefix is None else prefix.shape[1]
        future = None
        if covariates is not None:
            if covariates.shape[1] != given + steps:
                raise ValueError(
                    f"covariates have {covariates.shape[1]} steps; a prefix of {given} frames and "
                    f"{steps} new ones need {given + steps}"
                )
            covariates, future = covariates.split([given, steps], dim=1)
        if prefix is None:
            if start is None:
                start = self.likelihood.start(num_sequences, next(self.parameters()))
            first = self.bind(None, steps, start, None, future).conditions
            state = self.initial_state(len(start))
            return sample_frames(
                self,
                start,
                steps,
                state,
                temperature,
                first.covariates,
                output_noise=output_noise,
            )
        bound = self.bind(prefix, None, start, observed, covariates)
        z = self._sample_latents(bound)
        conditions = bound.conditions
        end = run_forward(
            self,
            conditions.start,
            bound.steps,
            z=z,
            frames=conditions.x,
            observed=conditions.observed,
            covariates=conditions.covariates,
        )
        seen = None if conditions.observed is None else conditions.observed[:, -1]
        if future is not None:
            future = future.to(next(self.parameters()))
        return sample_frames(
            self,
            bound.x[:, -1],
            steps,
            end.state,
            temperature,
            future,
            seen,
            output_noise=output_noise,
        )

    # -- on the disk ------------------------------------------------------------------------------

    def save(self, folder: str | Path, *, state: Mapping[str, Any] | None = None) -> None:
        """Write this model to a folder, for :func:`zpyro.load`; as a whole or not at all.

        The folder holds the weights (safetensors), and the class, the arguments of its constructor,
        the likelihood and ``metadata`` (JSON). A custom guide is saved with its parameters only.

        Args:
            folder: a new one, or one with a saved model, which is replaced.
            state: what continuing a training needs, for :func:`zpyro.load_state`: plain numbers,
                texts, lists, dictionaries and tensors, such as the states of an optimizer and of
                an objective.

        Raises:
            UserError: if the folder holds something else or cannot be written, or an argument of
                the constructor or the metadata are not plain values.

        Example::

            model.save("tides")
            model = zpyro.load("tides")
        """
        saving.save(self, folder, state=state)

    def save_pretrained(self, folder: str | Path, *, evaluation: Any = None) -> None:
        """:meth:`save` with a model card, a README.md for the Hugging Face Hub.

        The card holds what is known of the model and its training, and the bound of an evaluation.

        Args:
            folder: see :meth:`save`.
            evaluation: what :func:`zpyro.evaluate`, :func:`zpyro.iwae` or :func:`zpyro.smc`
                returned for this model, or several of these in a list.

        Raises:
            UserError: see :meth:`save`.
        """
        evaluations = list(evaluation) if isinstance(evaluation, list | tuple) else [evaluation]
        known = [each for each in evaluations if each is not None]
        saving.save(self, folder, card=hub.model_card(self, known))

    def push_to_hub(self, name: str, *, evaluation: Any = None, private: bool = False) -> str:
        """Upload what :meth:`save_pretrained` writes to the Hugging Face Hub.

        Args:
            name: of the repository, USER/MODEL; made if it is not there.
            evaluation: see :meth:`save_pretrained`.
            private: whether a new repository is private.

        Returns:
            The address of the commit.

        Raises:
            UserError: if huggingface_hub is not installed, or the upload fails.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(Path(folder) / "model", evaluation=evaluation)
            return hub.upload(Path(folder) / "model", name, private=private)

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | Path,
        *,
        revision: str | None = None,
        local_files_only: bool = False,
    ) -> Self:
        """Read a model from a folder, or download it from the Hugging Face Hub.

        Args:
            name_or_folder: a folder that :meth:`save` wrote, or a repository USER/MODEL.
            revision: branch, tag or commit of a repository.
            local_files_only: use what was downloaded before, without a network.

        Returns:
            The model, on the CPU and in evaluation mode.

        Raises:
            UserError: if it cannot be found or read, or is of another class.

        Example::

            model = zpyro.SequenceModel.from_pretrained("tides")
        """
        folder = hub.local_folder(name_or_folder, revision, local_files_only)
        model = saving.load(folder, classes=[cls])
        if not isinstance(model, cls):
            raise UserError(
                f"{folder}: holds a {type(model).__name__}, not a {cls.__name__}; use "
                f"{type(model).__name__}.from_pretrained"
            )
        return model

    def _sample_latents(self, bound: BoundModel) -> Tensor:
        """Latents (B, T, Z) from the active guide."""
        if self.custom_guide is None:
            return bound.sample_posterior(self.noise(bound.sequences, bound.steps))
        shape = torch.Size((bound.sequences, bound.steps, self.latent_size))
        return latents_of(self.custom_guide, shape, False, *bound.conditions.arguments)


def check_granularity(granularity: str) -> None:
    """Raise ValueError unless the granularity is "sequence" or "step"."""
    if granularity not in PROGRAMS:
        choices = ", ".join(PROGRAMS)
        raise ValueError(f"granularity is {granularity!r}; choose one of {choices}")
