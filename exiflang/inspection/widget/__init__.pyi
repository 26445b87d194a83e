from .heatmap_inspector import HeatmapInspector as HeatmapInspector
