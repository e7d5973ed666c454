"""SAMs of Hugging Face transformers: SAM, SAM 2 and 2.1, HQ-SAM, EdgeTAM and SAM 3's tracker."""
