"""`alexnet --completion bash|zsh`: a script with which the shell completes verbs and options.

The script holds all words, so that no Python starts when the Tab key is pressed. The options are
read from the help texts, which every verb has and which no list here could fall behind.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Sequence

from alexnet import recipes
from alexnet.errors import AlexNetError

WIDE = "1000"  # columns: no option is broken into two lines
# The verbs whose first argument may be the name of a recipe; their options depend on none.
WITH_RECIPE = ("train", "summary")

SCRIPT = """\
# Completion of `alexnet`. Load it with:  source <(alexnet --completion {shell})
{prelude}_alexnet() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} verb=${{COMP_WORDS[1]}} words=""
    if [ "$COMP_CWORD" -eq 1 ]; then
        words="{verbs} --help --version --completion"
    elif [ "$COMP_CWORD" -eq 2 ] && [ "$verb" = --completion ]; then
        words="bash zsh"
    elif [ "${{current#-}}" != "$current" ]; then
        case "$verb" in
{cases}
        esac
    elif [ "$COMP_CWORD" -eq 2 ]; then
        case "$verb" in {with_recipe}) words="{recipes}" ;; esac
    fi
    COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
# Where no word fits, the shell completes names of files.
complete -o bashdefault -o default -F _alexnet alexnet
"""
PRELUDES = {
    "bash": "",
    # zsh understands the completions of bash with this.
    "zsh": "autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n",
}


def script(arguments: Sequence[str], verbs: Sequence[str]) -> str:
    """The script for a shell.

    Args:
        arguments: The name of the shell alone, `bash` or `zsh`.

    Raises:
        AlexNetError: It is not the name of one of them.
    """
    if len(arguments) != 1 or arguments[0] not in PRELUDES:
        raise AlexNetError(f"name the shell: alexnet --completion {'|'.join(PRELUDES)}")
    (shell,) = arguments
    cases = [f'        {verb}) words="{" ".join(options(verb))}" ;;' for verb in verbs]
    return SCRIPT.format(
        shell=shell,
        prelude=PRELUDES[shell],
        verbs=" ".join(verbs),
        cases="\n".join(cases),
        with_recipe=" | ".join(WITH_RECIPE),
        recipes=" ".join(recipes.__all__),
    )


def options(verb: str) -> list[str]:
    """The options of a verb, as its full help names them, in alphabetical order."""
    from alexnet.cli import function_of

    asked = [[recipes.__all__[0], "--help-all"]] if verb in WITH_RECIPE else [["--help"]]
    if verb == "train":
        asked.append(["--help"])  # it names --resume, which no recipe has
    text = io.StringIO()
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = WIDE
    try:
        for arguments in asked:
            with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
                function_of(verb)(arguments)
    finally:
        del os.environ["COLUMNS"]
        if before is not None:
            os.environ["COLUMNS"] = before
    # Hyphens within a name only, so that a row of dashes in a frame is no option. Without the
    # fields of single layers: recipes differ in their number and kind.
    names = set(re.findall(r"(?<![\w-])--[a-z][\w.]*(?:-[\w.]+)*", text.getvalue()))
    shared = {option.rstrip(".") for option in names if not re.search(r"\.\d", option)}
    return sorted(shared | {"--help"})
