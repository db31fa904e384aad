"""What pyproject.toml cannot say: the folder bundles/ is installed as data of the package tools."""

from setuptools import find_packages, setup

# What a person who installs gets of each bundle: named, so that output/, eval/ and weights of
# others, which lie in a working checkout, stay out.
BUNDLE_FILES = [
    "LICENSE",
    "configs/*.conf",
    "configs/*.json",
    "docs/*.md",
    "docs/*.png",
    "docs/*.txt",
    "models/autoencoder.pt",
    "models/model.pt",
    "models/model_*.pt",
    "published_weights.yml",
]

setup(
    packages=[*find_packages(include=["tools", "tools.*"]), "tools._bundles"],
    package_dir={"tools._bundles": "bundles"},
    package_data={
        "": ["*.css", "*.html", "*.js", "*.json"],
        "tools._bundles": [f"*/{name}" for name in BUNDLE_FILES],
    },
)
