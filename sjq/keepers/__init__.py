"""The keepers: processes above those of the jobs, that let nothing of a job outlive it. Standard library only.

    worker ─ root keeper ─┬─ keeper of a slot ─ the process of its job ─ whatever that starts
                          └─ keeper of a slot ─ ...

Keepers are subreapers: what a job leaves behind, however it was detached, becomes a child of its slot's keeper and is
killed before the slot's next job. What a keeper leaves that is killed itself becomes a child of the root keeper, which
kills every child that is no keeper of its own. End of file on the worker's socket means that the worker is gone: then
a keeper kills its job and ends, and the root keeper ends when nothing is left under it. All of them hold the worker's
lock file open: recovery on this host waits until that lock is free, which is when the last of them is gone.
"""
