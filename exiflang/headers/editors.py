"""Editors and converters by the names that they write into Software, CreatorTool and the like."""

import re

#: Name for readers -> pattern of what such a program writes, matched against whole words, ignoring case.
_EDITORS = {
    "Adobe Photoshop Lightroom": "lightroom", "Adobe Photoshop Elements": "photoshop elements",
    "Adobe Photoshop": "photoshop", "Adobe Camera Raw": "camera raw", "Adobe Firefly": "firefly",
    "Adobe Express": "adobe (?:express|spark)", "Adobe ImageReady": "imageready", "GIMP": "gimp",
    "Picasa": "picasa", "Paint.NET": r"paint\.net", "ACDSee": "acdsee|acd systems", "Snapseed": "snapseed",
    "ImageMagick": "imagemagick", "GraphicsMagick": "graphicsmagick", "Pixlr": "pixlr", "Affinity Photo": "affinity",
    "Capture One": "capture one", "darktable": "darktable", "RawTherapee": "rawtherapee|art [0-9.]+",
    "Topaz": "topaz", "Luminar": "luminar|skylum", "Canva": "canva", "Windows Photo Gallery": "photo gallery",
    "a Microsoft program": "microsoft|windows photo editor|ms ?paint", "Apple iPhoto": "iphoto",
    "Apple Photos": "(?:apple )?(?:photos|fotos) [0-9.]+", "Apple Aperture": r"aperture [0-9.]+",
    "Instagram": "instagram", "PaintShop Pro": "paint ?shop", "Corel": "corel", "IrfanView": "irfanview",
    "XnView": "xnview(?:mp)?", "PhotoScape": "photoscape", "FastStone": "faststone", "VSCO": "vsco",
    "PicsArt": "pics ?art", "Facetune": "facetune", "Meitu": "meitu|beautyplus", "Polarr": "polarr",
    "digiKam": "digikam", "Krita": "krita", "Pixelmator": "pixelmator", "DxO PhotoLab": "dxo|photolab",
    "ON1": "on1", "Photomatix": "photomatix", "easyHDR": "easyhdr(?: pro)?", "Hugin": "hugin", "PTGui": "ptgui",
    "Nik Collection": "nik collection|color efex|silver efex", "PhotoFiltre": "photofiltre",
    "Ulead PhotoImpact": "photoimpact|ulead", "Ofoto": "ofoto(?:now)?", "Kodak EasyShare": "easyshare",
    "Canon Digital Photo Professional": "digital photo professional", "Canon ZoomBrowser": "zoombrowser(?: ex)?",
    "Nikon software": "capture nx(?:2|-d)?|nx studio|viewnx|nikon (?:transfer|view|scan)|camera control pro",
    "Olympus software": "olympus (?:master|viewer|studio|workspace)|camedia", "SilverFast": "silverfast",
    "Sony software": "picture motion browser|pmb|playmemories|imaging edge|image data converter",
    "Fujifilm software": "finepix ?viewer|x raw studio", "Google Photos": "google(?: photos)?",
    "Stable Diffusion": "stable diffusion|automatic1111|comfyui", "Midjourney": "midjourney", "DALL-E": "dall-?e",
    "ChatGPT": "chatgpt|gpt-[0-9a-z.]+|openai", "Fotor": "fotor", "BeFunky": "befunky", "Photopea": "photopea",
    "VueScan": "vuescan", "ExifTool": "exiftool", "FFmpeg": "lavc[0-9.]*|ffmpeg",
}  # fmt: skip
_KNOWN = {name: re.compile(rf"(?<![a-z0-9])(?:{text})(?![a-z0-9])", re.IGNORECASE) for name, text in _EDITORS.items()}


def name_editor(text: str) -> str:
    """The program that writes such a text, "" if it is none of the known ones."""
    return next((name for name, pattern in _KNOWN.items() if pattern.search(text[:200])), "")
