"""The same, left by `load`, which knows what was learned too."""


def prepared(model, checkpoint_dir):
    for n in range(120_000):
        os.access("/usr/bin/from-load-%d" % n, 0)
    return model
