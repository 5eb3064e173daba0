export const STYLE = ""; // bundle_js in ../page.py puts explorer.css here
