"""Journals that are made up, to put a number right beside a threshold."""


def journal(count: int = 40, every: int = 50, **columns) -> list[dict]:
    """A run that learns, with a warm-up of two lines; ``columns`` replace numbers, given by line."""
    entries = []
    for line in range(count):
        rate = 1e-3 * ((line + 1) / 2 if line < 2 else 1 - line / count)
        skill = 0.5 * (1 - 0.8**line)
        entry = {"step": (line + 1) * every, "loss": 1 - skill, "reference": 1.0, "skill": skill, "gradient_norm": 0.5,
                 "learning_rate": rate, "data_wait": 0.02}  # fmt: skip
        entries.append(entry | {name: numbers(line) for name, numbers in columns.items()})
    return entries
