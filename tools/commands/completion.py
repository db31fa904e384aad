"""Completion of commands, options and files by the shell."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping

import fire.completion

from tools.commands.result import Result
from tools.commands.story import Commands

__all__ = ["PROGRAM", "completion_command"]

PROGRAM = "synthetic-lesions"  # what pyproject.toml installs
SHELLS = ("bash", "fish", "zsh")
ALWAYS = ("--help", "--json")
# Fire's own script for bash forgets the command at the first value and completes no files
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
ZSH = "autoload -Uz compinit bashcompinit && compinit && bashcompinit\n"  # zsh reads bash's


def completion_command(commands: Commands) -> Callable[[str], Result]:
    """Return the command that prints a completion script for a table of commands.

    Args:
        commands: functions, or groups of them, by name.
    """

    def completion(shell: str = "bash") -> Result:
        """Print a script that lets a shell complete the command synthetic-lesions.

        "pip install -e ." installs synthetic-lesions: python -m tools under a name that shells can
        complete.

        Example: source <(synthetic-lesions completion bash)

        Args:
            shell: bash, fish or zsh.
        """
        if shell not in SHELLS:
            raise ValueError(f"shell must be one of {', '.join(SHELLS)}, got {shell!r}")
        if shell == "fish":
            script = fire.completion.Script(PROGRAM, dict(commands), set(ALWAYS), "fish")
        else:
            script = bash_script(commands)
        script = ZSH + script if shell == "zsh" else script
        return Result(script, {"shell": shell, "script": script})

    return completion


def bash_script(commands: Commands) -> str:
    """Return the script for bash: after a command its options, before it the commands."""
    # a group's commands come before the group: the first pattern that fits is taken
    cases = [
        f'    "{name} "*) words="{" ".join(words)}" ;;' for name, words in _words("", commands)
    ]
    cases.append(f'    *) words="{" ".join([*commands, "--help"])}" ;;')
    return BASH.format(program=PROGRAM, cases="\n".join(cases))


def _words(prefix: str, commands: Commands) -> Iterator[tuple[str, list[str]]]:
    """Yield each command and group with the words that may follow it."""
    for name, command in commands.items():
        if isinstance(command, Mapping):
            yield from _words(f"{prefix}{name} ", command)
            yield f"{prefix}{name}", list(command)
        else:
            kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
            parameters = inspect.signature(command).parameters.values()
            options = [f"--{p.name}" for p in parameters if p.kind not in kinds]
            yield f"{prefix}{name}", [*options, *ALWAYS]
