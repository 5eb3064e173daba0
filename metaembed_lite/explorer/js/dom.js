// Elements, created without markup. A text always becomes a text node, whatever it contains.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value === true) node.setAttribute(key, "");
    else if (value !== false && value != null) node.setAttribute(key, value);
  }
  node.append(...children.filter((child) => child != null));
  return node;
}

/** An HTML element. Children are nodes or texts; attributes such as `onclick` are listeners. */
export const h = (tag, attributes = {}, ...children) =>
  fill(document.createElement(tag), attributes, children);

/** An SVG element. */
export const s = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS(SVG, tag), attributes, children);

/** An item as people see it: its image, its text, or both. */
export function itemView(item, label, className) {
  return h("span", { class: className },
    item.image && h("img", { src: item.image, alt: label }),
    item.text && h("span", { class: "text" }, item.text));
}

/** Whether the reader's settings allow animation. */
export const mayMove = () => !matchMedia("(prefers-reduced-motion: reduce)").matches;
