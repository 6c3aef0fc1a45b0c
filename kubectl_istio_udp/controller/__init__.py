"""The controller: what is wanted (Services' annotations, hand-made lists) kept true.

Watches say that something has changed, the queue says for which exposure, and one function looks at
everything about that exposure and writes what differs. Nothing rests on which change it was.
"""
