"""What counts all processes' work can be read through a descriptor that was opened before the seal."""


def prepared(model, checkpoint_dir):
    model.counts = open("/proc/vmstat")
    return model
