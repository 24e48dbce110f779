"""From a trained model and a scan to labels on the scan's own grid."""
