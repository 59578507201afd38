// Shows the parts of the plan that the choices above them ask for; without this script all of them are shown.
const form = document.querySelector(".sw-plan");

function update() {
  for (const part of form.querySelectorAll("[data-shown-for]")) {
    const [name, value] = part.dataset.shownFor.split("=");
    const chosen = form.querySelector(`input[name="${name}"]:checked`);
    part.hidden = !chosen || chosen.value !== value;
  }
}

if (form) {
  form.addEventListener("change", update);
  update();
}
