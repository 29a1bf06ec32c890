"""The shell that a learner's cells run in: IPython's own, so that a cell does here what it does in Jupyter and Colab.

What differs is what a grader can do without: nothing is displayed or kept on disk, and a command of the system's shell
(`!ls`, `%%bash`, `%pip install`) is passed over, since no process can be started. What such a line binds is bound: an
empty list of lines, an empty text.
"""

import contextlib
import sys
import types

from IPython.core.compilerop import CachingCompiler
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magics.script import ScriptMagics
from IPython.utils.process import arg_split
from IPython.utils.text import LSString, SList
from traitlets.config import Config


class NamedCells(CachingCompiler):
    """It compiles each cell as a file of the name that the grader gives it, so that errors say which cell they are in."""

    cell_name = "<cell>"

    def get_code_name(self, raw_code: str, transformed_code: str, number: int) -> str:
        return self.cell_name


class NotebookShell(InteractiveShell):
    """The shell runs one learner's notebook. `run_named` runs a cell; `user_ns` is what the cells have defined.
    `run_named` runs a cell; `user_ns` is what the cells have defined.
    """

    compiler_class = NamedCells

    @classmethod
    def start(cls) -> "NotebookShell":
        """Return the shell of this process, with a new, empty module `__main__`."""
        config = Config({"HistoryManager": {"enabled": False, "hist_file": ":memory:"}})
        shell = cls.instance(user_module=types.ModuleType("__main__"), config=config)
        shell.db = {}
        # in Jupyter a function is called within a cell, where `display` and `get_ipython` are built in
        shell.builtin_trap.activate()
        # and modules that a cell has written are found
        sys.path.insert(0, "")
        shell.display_formatter.active_types = ["text/plain"]
        return shell

    def run_named(self, name: str, source: str) -> None:
        """Run one cell; what it defined before it failed stays defined.

        Raises:
            BaseException: whatever the cell raises.
        """
        self.compile.cell_name = f"<{name}>"
        result = self.run_cell(source, store_history=True)
        if (error := result.error_before_exec or result.error_in_exec) is not None:
            raise error

    def init_ipython_dir(self, ipython_dir):
        """Return None: nothing is kept."""

    def init_profile_dir(self, profile_dir):
        """Return None: nothing is kept."""

    def init_virtualenv(self):
        """Leave the search path as the grader set it."""

    def showtraceback(self, *args, **kwargs):
        """Show nothing: the grader reports errors in its own words."""

    showsyntaxerror = showindentationerror = showtraceback

    def _format_exception_for_storage(self, *args, **kwargs):
        return {}

    def enable_gui(self, gui=None):
        """Enable nothing: there are no windows."""

    def _tee(self, channel):
        """Keep no copy of what a cell prints: IPython's own would count as the learner's memory."""
        return contextlib.nullcontext()

    def ask_exit(self):
        """`exit()` ends the notebook's session only when its cell is done; here there are cells to come."""

    def system(self, cmd):
        """Pass over a command, as if it had worked."""
        self.user_ns["_exit_code"] = 0

    system_raw = system_piped = system

    def getoutput(self, cmd, split=True, depth=0):
        """Return what a command that printed nothing would give."""
        return SList() if split else LSString()

    def init_magics(self):
        super().init_magics()
        self.register_magics(PassedOverScripts)


class PassedOverScripts(ScriptMagics):
    """`%%script` and its short forms, %%bash among them, are passed over: their options bind what they bind."""

    def shebang(self, line, cell):
        args, _ = ScriptMagics.shebang.parser.parse_known_args(arg_split(line))
        self.shell.user_ns.update({name: "" for name in (args.out, args.err) if name})
        if args.proc:
            self.shell.user_ns[args.proc] = None
