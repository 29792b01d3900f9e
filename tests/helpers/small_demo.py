"""The demo on one layer and few images."""

from dataclasses import replace


def shrink(patch):
    """Let the demo work on little."""
    from qcp_ref.app import network
    from qcp_ref.app.demo import measure, tables

    images = network.load_images()
    few = replace(
        images,
        calibration_images=images.calibration_images[::10],
        test_images=images.test_images[:200],
        test_labels=images.test_labels[:200],
    )
    first = {"block1.conv1": network.KERNELS["block1.conv1"]}
    patch.setattr(measure, "load_images", lambda: few)
    patch.setattr(measure, "KERNELS", first)
    patch.setattr(tables, "KERNELS", first)
