"""Progress of a fit: scikit-learn's callbacks where it has them (1.9 on), a line of text with `verbose` everywhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

try:
    from sklearn.callback import CallbackSupportMixin as CallbackSupport
    from sklearn.callback import with_callbacks
except ImportError:

    class CallbackSupport:  # type: ignore[no-redef]  # for scikit-learn before 1.9
        """Replacement of scikit-learn's mixin for versions without callbacks."""

    def with_callbacks(method: Callable) -> Callable:
        """Return the method: there are no callbacks to set up or to tear down."""
        return method


__all__ = ["CallbackSupport", "Progress", "Stage", "with_callbacks"]


class Progress:
    """The progress of one fit: stages one after another, steps within a stage.

    Parameters
    ----------
    estimator : estimator
        Its callbacks are called, and lines are printed if it is `verbose`.
    n_stages : int
    X, y : array-like
        Data passed to the callbacks.
    reconstruct : callable(result) -> dict, or None
        Converts the result of a step to the fitted attributes of an estimator that stops there.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> progress = Progress(SimpleNamespace(verbose=1), 1)
    >>> with progress.stage("train", 2) as stage:
    ...     stop = stage.step("loss 0.5")
    [SimpleNamespace] train 1/2: loss 0.5 (... s)
    """

    def __init__(
        self, estimator: Any, n_stages: int, X: Any = None, y: Any = None, reconstruct: Callable | None = None
    ):
        self.estimator, self.X, self.y, self.reconstruct = estimator, X, y, reconstruct
        self.context = None
        if hasattr(estimator, "_init_callback_context"):
            self.context = estimator._init_callback_context(max_subtasks=n_stages)
            self.context.call_on_fit_task_begin(estimator=estimator, X=X, y=y)

    @contextmanager
    def stage(self, name: str, n_steps: int = 0) -> Iterator["Stage"]:
        """Start the next stage, of at most `n_steps` steps."""
        context = None
        if self.context is not None:
            context = self.context.subcontext(task_name=name, max_subtasks=n_steps)
            context.call_on_fit_task_begin(estimator=self.estimator, X=self.X, y=self.y)
        stage = Stage(self, context, name, n_steps)
        yield stage
        if context is not None:
            context.call_on_fit_task_end(estimator=self.estimator, X=self.X, y=self.y)

    def finish(self) -> None:
        """Notify the callbacks of the end of the fit, after the fitted attributes are set."""
        if self.context is not None:
            self.context.call_on_fit_task_end(
                estimator=self.estimator, X=self.X, y=self.y, reconstruction_attributes={}
            )


class Stage:
    """One stage of a `Progress`; made by `Progress.stage`."""

    def __init__(self, progress: Progress, context: Any, name: str, n_steps: int):
        self.progress, self.context, self.name, self.n_steps = progress, context, name, n_steps
        self.n_done, self.started = 0, time.perf_counter()

    def step(self, message: str = "", result: Callable[[], Any] | None = None) -> bool:
        """Report a finished step.

        Parameters
        ----------
        message : str
        result : callable, or None
            Returns the result so far; only called for a callback that uses it.

        Returns
        -------
        bool
            Whether a callback requests to stop.
        """
        self.n_done += 1
        self.log(f"{self.n_done}/{self.n_steps}: {message}" if self.n_steps else message)
        if self.context is None:
            return False
        progress, attributes = self.progress, None
        if result is not None and progress.reconstruct is not None:
            attributes = lambda: progress.reconstruct(result())  # noqa: E731
        seen = {"estimator": progress.estimator, "X": progress.X, "y": progress.y}
        context = self.context.subcontext(task_name=f"{self.name}-step")
        context.call_on_fit_task_begin(**seen)
        return context.call_on_fit_task_end(**seen, reconstruction_attributes=attributes)

    def log(self, message: str) -> None:
        """Print a line if the estimator is verbose."""
        if getattr(self.progress.estimator, "verbose", 0):
            name, elapsed = type(self.progress.estimator).__name__, time.perf_counter() - self.started
            print(f"[{name}] {self.name} {message} ({elapsed:.1f} s)", flush=True)

    def inside(self, estimator: Any) -> AbstractContextManager:
        """Return a context manager in which an inner estimator reports to the same callbacks, if it has any."""
        if self.context is None or not hasattr(estimator, "set_callbacks"):
            return nullcontext()
        return self.context.propagate_callback_context(estimator)
