"""DICOM: series and their pixels, read rightly or refused."""

import logging
import warnings

# what these libraries complain of they quote, names of patients too, which belong in no log
for _library in ("pydicom", "highdicom"):
    logging.getLogger(_library).setLevel(logging.CRITICAL)
warnings.filterwarnings("ignore", module=r"(pydicom|highdicom)\b")
