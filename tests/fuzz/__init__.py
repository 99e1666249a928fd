"""The hostile campaign: damaged files through every reader, and processes killed at any moment.

    make fuzz                                     the whole campaign, in minutes
    python -m tests.fuzz --inputs 2000            a shorter one
    python -m tests.fuzz --only checkpoint        the readers whose names contain a word
    python -m tests.fuzz --only config --input 7  one input, with its traceback

An input is a function of the reader's name, the seed and its number, so that every finding can be
repeated. See `readers.py` for what is read, and `campaign.py` for what counts as what.
"""
