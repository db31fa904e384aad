"""Completion of commands, options and files by the shell."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import chain

from tools.commands.arguments import ALWAYS, Commands, arguments_of
from tools.commands.result import Result

__all__ = ["INSTALLED", "completion_of"]

INSTALLED = "synthetic-lesions"  # what pyproject.toml installs
BASH = """\
# completion of {program} for bash
_synthetic_lesions() {{
  local current="${{COMP_WORDS[COMP_CWORD]}}" given="${{COMP_WORDS[*]:1:COMP_CWORD-1}}" words=""
  case "$given " in
{cases}
  esac
  # a value is wanted: bash's own completion of files takes over
  [[ "${{COMP_WORDS[COMP_CWORD-1]}}" == --* && "$current" != -* ]] && words=""
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -o default -F _synthetic_lesions {program}
"""
CASE, CASE_FISH = '    "{}"*) words="{}" ;;', "    case '{}*'\n      printf '%s\\n' {}"
ZSH = "autoload -Uz compinit bashcompinit && compinit && bashcompinit\n"  # zsh reads bash's
FISH = """\
# completion of {program} for fish
function __synthetic_lesions
  set -l given (commandline -opc)
  # a value is wanted: fish's own completion of files takes over
  string match -q -- '--*' $given[-1]; and not string match -q -- '-*' (commandline -ct); and return
  switch "$given[2..-1] "
{cases}
  end
end
complete -c {program} -a "(__synthetic_lesions)"
"""


def completion_of(commands: Commands) -> Callable[..., Result]:
    """Return the command that prints a script to complete some commands."""

    def completion(shell: str = "bash") -> Result:
        """Print a script that lets a shell complete the command synthetic-lesions.

        "pip install -e ." installs synthetic-lesions: python -m tools under a name that shells can
        complete.

        Example: source <(synthetic-lesions completion bash)

        Args:
            shell: bash, fish or zsh.
        """
        if shell not in ("bash", "fish", "zsh"):
            raise ValueError(f"shell must be one of bash, fish, zsh, got {shell!r}")
        # a group's commands come before the group: the first pattern that fits is taken
        cases = [*_words("", commands), ("", [*commands, "--help"])]
        form = CASE_FISH if shell == "fish" else CASE
        rows = "\n".join(form.format(name, " ".join(words)) for name, words in cases)
        script = (FISH if shell == "fish" else BASH).format(program=INSTALLED, cases=rows)
        script = ZSH + script if shell == "zsh" else script
        return Result(script, {"shell": shell, "script": script})

    return completion


def _words(prefix: str, commands: Commands) -> Iterator[tuple[str, list[str]]]:
    """Yield each command and group with the words that may follow it."""
    for name, command in commands.items():
        if isinstance(command, Mapping):
            named = {word: each for word, each in command.items() if word}
            yield from _words(f"{prefix}{name} ", named)
            own = [words for _, words in _words("", {name: command[""]})] if "" in command else []
            yield f"{prefix}{name} ", [*named, *chain(*own)]
        else:
            options, _ = arguments_of(command)
            yield f"{prefix}{name} ", [*(f"--{option}" for option in options), *ALWAYS]
