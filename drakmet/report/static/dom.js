"use strict";
// SPDX-License-Identifier: GPL-2.0-or-later
// Elements out of plain values. Whatever comes from the data becomes text, never markup.

const SVG = "http://www.w3.org/2000/svg";

function build(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") node.addEventListener(name, value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    node.append(child instanceof Node ? child : String(child));
  }
  return node;
}

function el(tag, attributes, ...children) {
  return build(document.createElement(tag), attributes, children);
}

function svg(tag, attributes, ...children) {
  return build(document.createElementNS(SVG, tag), attributes, children);
}

function put(node, ...children) {
  node.replaceChildren();
  return build(node, {}, children);
}

// Text of a guest stands apart, so that a script that runs from right to left turns nothing around beside it.
function text(value, kind) {
  return el("bdi", { class: kind || "text" }, value === null || value === undefined ? "not known" : value);
}

function button(label, action, attributes) {
  return el("button", { type: "button", click: action, ...attributes }, label);
}

function section(id, title, ...children) {
  const heading = `${id}-title`;
  return el("section", { id, "aria-labelledby": heading }, el("h2", { id: heading }, title), children);
}

function say(message) {
  document.getElementById("said").textContent = message;
}
