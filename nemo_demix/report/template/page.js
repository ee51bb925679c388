"use strict";
// A mixture of the front, picked in its table, is marked in the section's figures.
for (const input of document.querySelectorAll(".picks input")) {
  input.addEventListener("change", () => {
    const section = input.closest("section");
    for (const one of section.querySelectorAll(".picked")) one.classList.remove("picked");
    input.closest("tr").classList.add("picked");
    for (const svg of section.querySelectorAll("figure svg")) {
      const mark = svg.querySelector(`[id$="-mark-0-${input.value}"]`);
      if (mark) { mark.classList.add("picked"); mark.parentNode.appendChild(mark); }
    }
  });
}
for (const mark of document.querySelectorAll("section .mark")) {
  mark.addEventListener("click", () => {
    const inputs = mark.closest("section").querySelectorAll(".picks input");
    if (/-mark-0-\d+$/.test(mark.id) && inputs.length) inputs[Number(mark.dataset.mark)].click();
  });
}
// Paper has nothing to open.
addEventListener("beforeprint", () => {
  for (const one of document.querySelectorAll("details:not([open])")) { one.open = true; one.dataset.opened = ""; }
});
addEventListener("afterprint", () => {
  for (const one of document.querySelectorAll("details[data-opened]")) { one.open = false; delete one.dataset.opened; }
});
