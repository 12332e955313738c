"""Where ranks run: threads of this process, or processes of their own."""

from .batch import slurm_script
from .launch import launch
from .remote import RemoteRun, SavedRun, attach

__all__ = ["RemoteRun", "SavedRun", "attach", "launch", "slurm_script"]
