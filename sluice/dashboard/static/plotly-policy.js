"use strict";
// As it loads, plotly adds the style sheet of its maps to the page, inline, and the policy refuses
// that with an error in the console. No plot of ours is a map: it is not added.
document.head.appendChild = (node) =>
  node.tagName === "STYLE" ? node : Node.prototype.appendChild.call(document.head, node);
