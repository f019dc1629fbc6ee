"""What is said to mistakes in a user's guide: one line, whenever they show."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.cli.conftest import Zpyro
from tests.cli.test_own_guides import GUIDE, begin, last_line

MISTAKES = {
    "a syntax error": ("x = (\n", r"mine.py, line 1: SyntaxError"),
    "a failing import": (
        "import zpyro\nimport no_such_package\n",
        r"line 2: ModuleNotFoundError: ",
    ),
    "no such name": ("x = 1\n", r"mine.py: has no make;"),
    "a failing factory": ("def make(module):\n    return 1 / 0\n", r"line 2: ZeroDivisionError"),
    "no guide": ("def make(module):\n    return 3\n", r"make returns int, which cannot be called"),
    "a failing guide": (
        "def make(module):\n  def guide(*xs):\n    return xs[0].nothing\n  return guide\n",
        r"line 3: AttributeError: .*while calling the guide",
    ),
    "another site": (
        GUIDE + "      pyro.sample('y', dist.Normal(x.new_zeros(len(x)), 1))\n  return guide\n",
        r"samples no site z .* are y",
    ),
    "another shape": (
        GUIDE + "      pyro.sample('z', dist.Normal(x.new_zeros(len(x), 6, 4), 1).to_event(2))\n"
        "  return guide\n",
        r"z has shape \(8, 6, 4\); .* must be \(8, 6, 3\)",
    ),
    "steps unannounced": (
        GUIDE + "      for t in range(x.shape[1]):\n"
        "        pyro.sample(f'z_{t + 1}', dist.Normal(x.new_zeros(len(x), 3), 1).to_event(1))\n"
        "  return guide\n",
        r'set granularity = "step"',
    ),
    "pyro.param": (
        GUIDE + "      w = pyro.param('w', torch.zeros(3))\n"
        "      pyro.sample('z', dist.Normal(x.new_zeros(len(x), 6, 3) + w, 1).to_event(2))\n"
        "  return guide\n",
        r"parameter w is made by pyro.param",
    ),
    "a plate of another size": (
        GUIDE.replace("len(x))", "3)")
        + "      pyro.sample('z', dist.Normal(x.new_zeros(len(x), 6, 3), 1).to_event(2))\n"
        "  return guide\n",
        r"line 10: ValueError: Shape mismatch .* 3 vs 8 \(while calling the guide\); fix the file$",
    ),
    "a step left out": (
        GUIDE + "      for t in range(x.shape[1] - 1):\n"
        "        pyro.sample(f'z_{t + 1}', dist.Normal(x.new_zeros(len(x), 3), 1).to_event(1))\n"
        "  guide.granularity = 'step'\n  return guide\n",
        r"samples no site z_6; a sequence of 6 steps needs all of z_1 to z_6$",
    ),
    "frames of its own": (
        GUIDE + "      pyro.sample('z', dist.Normal(x.new_zeros(len(x), 6, 3), 1).to_event(2))\n"
        "      pyro.sample('x', dist.Normal(x, 1).to_event(2))\n  return guide\n",
        r"has a site x, which is not a latent of the model",
    ),
    "a variable that the model lacks": (
        GUIDE + "      pyro.sample('z', dist.Normal(x.new_zeros(len(x), 6, 3), 1).to_event(2))\n"
        "      pyro.sample('w', dist.Normal(0, 1))\n  return guide\n",
        r"has a site w, which is not a latent of the model",
    ),
    "a message with a tensor in it": (
        GUIDE + "      pyro.sample('z', dist.Normal(torch.zeros(len(x), 6, 3), "
        "-torch.ones(len(x), 6, 3)).to_event(2))\n  return guide\n",
        r"ValueError: Expected parameter scale .{20,280} \.\.\. \(while calling",
    ),
    "a user error within a trace": (
        GUIDE + "      pyro.sample('w', dist.Normal(0, 1))\n"
        "    from zpyro.errors import UserError\n    raise UserError('give less')\n"
        "  return guide\n",
        r"^error: give less$",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_told_in_a_line(zpyro: Zpyro, arrays: Path, tmp_path: Path, name: str) -> None:
    text, expected = MISTAKES[name]
    file = tmp_path / "mine.py"
    file.write_text(text, encoding="utf-8")
    line = last_line(begin(zpyro, arrays, tmp_path / "run", f"{file}:make"))
    assert re.search(expected, line), line
    assert not (tmp_path / "run").exists()


LATER = {
    "its own exception": (
        "      if len(x) > 8:\n        raise KeyError('later')\n",
        r"mine.py, line 11: KeyError: 'later'; fix the file$",
    ),
    "another shape": (
        "      if len(x) > 8:\n"
        "        return pyro.sample('z', dist.Normal(torch.zeros(len(x), 6, 4), 1).to_event(2))\n",
        r"Model and guide shapes disagree at site 'z'",
    ),
    "no latents": (
        "      if len(x) > 8:\n        return None\n",
        r"the guide samples no site z, which the model has; add it$",
    ),
}


@pytest.mark.parametrize("name", LATER)
def test_mistakes_that_show_only_in_training_are_told_in_a_line(
    zpyro: Zpyro, arrays: Path, tmp_path: Path, name: str
) -> None:
    text, expected = LATER[name]
    file = tmp_path / "mine.py"
    sound = "      pyro.sample('z', dist.Normal(x.new_zeros(len(x), 6, 3), 1).to_event(2))\n"
    file.write_text(f"{GUIDE}{text}{sound}  return guide\n", encoding="utf-8")
    line = last_line(
        begin(zpyro, arrays, tmp_path / "run", f"{file}:make", "--set=train.batch_size=16")
    )
    assert re.search(expected, line), line
