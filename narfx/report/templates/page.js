"use strict";
(() => {
  const tip = document.getElementById("tip"), told = document.getElementById("told");
  let fading = 0;
  const say = (text) => {
    told.textContent = text;
    clearTimeout(fading);
    fading = setTimeout(() => { told.textContent = ""; }, 2500);
  };
  const byHand = (text) => {
    const area = document.createElement("textarea"), back = document.activeElement;
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    back?.focus();
    return done;
  };
  const copy = async (text) => {
    let done = false;
    try { await navigator.clipboard.writeText(text); done = true; } catch { done = byHand(text); }
    say(done ? `Copied: ${text}` : "The browser does not allow copying; the table has the text.");
  };
  const show = (point) => {
    tip.textContent = point.dataset.tip;
    tip.hidden = false;
    const at = point.getBoundingClientRect(), own = tip.getBoundingClientRect();
    const left = Math.min(Math.max(at.left + at.width / 2 - own.width / 2, 8), innerWidth - own.width - 8);
    tip.style.left = `${left}px`;
    tip.style.top = `${at.top - own.height - 10 > 0 ? at.top - own.height - 10 : at.bottom + 10}px`;
  };
  const hide = () => { tip.hidden = true; };
  for (const figure of document.querySelectorAll("figure.points")) {
    const points = [...figure.querySelectorAll(".point")].sort(
      (a, b) => a.getBoundingClientRect().left - b.getBoundingClientRect().left);
    points[0]?.setAttribute("tabindex", "0");
    points.forEach((point, index) => {
      point.addEventListener("mouseenter", () => show(point));
      point.addEventListener("mouseleave", hide);
      point.addEventListener("focus", () => show(point));
      point.addEventListener("blur", hide);
      point.addEventListener("click", () => copy(point.dataset.copy));
      point.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
        const next = event.key === "Home" ? 0 : event.key === "End" ? points.length - 1 : index + step;
        if (event.key === "Enter" || event.key === " ") copy(point.dataset.copy);
        else if (event.key === "Escape") hide();
        else if (points[next]) {
          point.setAttribute("tabindex", "-1");
          points[next].setAttribute("tabindex", "0");
          points[next].focus();
        } else return;
        event.preventDefault();
      });
    });
  }
  for (const button of document.querySelectorAll("button.copy"))
    button.addEventListener("click", () => copy(button.dataset.copy));
  addEventListener("scroll", hide, { passive: true });
  addEventListener("beforeprint", () => {
    for (const details of document.querySelectorAll("details.network:not([open]), .points details:not([open])")) {
      details.open = true;
      details.dataset.printed = "";
    }
  });
  addEventListener("afterprint", () => {
    for (const details of document.querySelectorAll("details[data-printed]")) {
      details.open = false;
      delete details.dataset.printed;
    }
  });
})();
