/** The number beside each slider, as it is moved. */
addEventListener("input", ({ target }) => {
  if (target instanceof HTMLInputElement && "slider" in target.dataset) target.nextElementSibling.value = target.value;
});
