"""Published sets: Multi30K, MSCOCO, VATEX, MSR-VTT-CN and Flickr8k-CN in the layouts of their authors."""
