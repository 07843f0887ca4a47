"""What the keys of the split table's summary mean, where they are easily taken for something else."""

EXPLAINED = {
    "bytes_product_over_parity_at_91": "where the product and Entropic Student are right on 91 % of all test frames; "
    "`…_epochs` is how long both were trained",
    "bytes_product_over_parity": "the product's bytes over Entropic Student's where it is as often right as the "
    "latter at one of its own points; the worst of them",
    "bytes_product_over_webp_at_91": "where both are right on 91 % of the codecs' frames; the payload's header counts, "
    "WebP's does not",
    "product_best_top1": "right, %, of all test frames, at the best level",
    "encoder_macs_over_resnet20": "what the split adds to the device's own network: the encoder alone",
    "device_macs_over_resnet20": "all that the device computes before it sends: the encoder, and the part of its own "
    "network that stands before it",
    "points_over_local_only_at_equal_macs": "the product's worst level, over the better `local_only` of at most the "
    "device's work",
    "multi_rate_over_single_rate_bytes": "one model for all rates over a model for one rate, at the accuracy of the "
    "latter; the worst rate; trained as the table side by side says",
    "seg_bytes_over_webp": "at equal mIoU, at the level where it is most; WebP's header does not count",
    "det_bytes_over_webp": "the same at equal AP50",
    "link_latency_split_over_webp": "to the cloud's answer and back at 40 ms: link and work together, so no figure of "
    "the link; at the level where it is most, as the next two",
    "link_road_split_over_webp": "of that what the link takes, up and down, and how late the relay is woken on a busy "
    "machine",
    "link_work_split_over_webp": "of that the work at both ends: segment, encoder, waiting, and the network in the "
    "cloud",
    "default_input": "the split whose figures stand without a suffix: it adds the least work to the device's own "
    "network, which need not be the least work for the device",
}
