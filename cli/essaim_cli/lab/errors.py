"""What can go wrong with a lab. `str()` is one line: what, why, what next.

EssaimError
└── LabError              the lab cannot do what was asked; the text says what to do next
    ├── EngineImpossible  no engine or no namespaces on this machine; loopback still works
    └── PartNotReady      a process was started and did not answer in time; names its log
"""

from essaim_shared.errors import EssaimError


class LabError(EssaimError):
    pass


class EngineImpossible(LabError):
    pass


class PartNotReady(LabError):
    pass
