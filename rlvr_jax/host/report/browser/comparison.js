// Several runs on one page.
function comparison() { return []; }
