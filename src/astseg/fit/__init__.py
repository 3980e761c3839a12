"""From a folder of pictures to masks in one command: look at the data, plan, train, tell whether it worked.

- :mod:`astseg.fit.survey` looks at some of the pictures;
- :mod:`astseg.fit.regions` finds what differs from their background;
- :mod:`astseg.fit.pace` takes a few steps of each phase, for their time and memory;
- :mod:`astseg.fit.plan` decides the settings, each with its reason;
- :mod:`astseg.fit.run` does it all.
"""
