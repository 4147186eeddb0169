// Buttons that copy a field: <button data-copy="id of the field" hidden>. Without scripts the field is
// selected by hand; without a secure context there is no clipboard, and the button selects it.
"use strict";
{
    const status = document.getElementById("copy-status");
    for (const button of document.querySelectorAll("[data-copy]")) {
        const field = document.getElementById(button.dataset.copy);
        button.hidden = false;
        button.addEventListener("click", async () => {
            field.select();
            try {
                await navigator.clipboard.writeText(field.value);
                button.textContent = "Copied";
                status.textContent = "Copied.";
            } catch {
                button.textContent = "Selected";
                status.textContent = "It is selected: copy it with the keyboard.";
            }
        });
        field.addEventListener("focus", () => field.select());
    }
}
