"""The controller: it keeps exposures as Services' annotations request them.

Watches report changes, the queue holds the affected exposures, and one function reconciles an
exposure: it reads everything about it and writes what differs. The result does not depend on which
change triggered it.
"""
