"""TensorBoard: event files in the run's folder."""

from rws_cli.part import part
from rws_cli.trackers.base import TrackedRun, Tracker


@part
class TensorBoard(Tracker):
    """Scalars of a run and, as text, its configuration."""

    package = "tensorboard"

    def open(self, run: TrackedRun) -> None:
        import yaml
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(run.folder / "tensorboard"))
        text = yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True)
        self.writer.add_text("config", "".join(f"    {line}\n" for line in text.splitlines()))  # Markdown's code

    def log(self, step: int, values: dict[str, float]) -> None:
        for key, value in values.items():
            self.writer.add_scalar(key, value, step)
        self.writer.flush()

    def close(self, status: str) -> None:
        self.writer.close()
